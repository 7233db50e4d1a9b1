// The schemas of the `sparrow_native` ops: those of `sparrow`, argument for argument.
#include "bindings/library.h"

#define LAYOUT \
  "Tensor parent, Tensor depth, Tensor ancestors, Tensor first_child, Tensor next_sibling"
#define TREE_ATTENTION                                                                       \
  "Tensor query, Tensor key, Tensor value, Tensor ancestors, Tensor prefix_lens, "           \
  "Tensor? prefix_starts, Tensor? anchor_slots, Tensor? anchor_count, Tensor? anchor_rank, " \
  "SymInt? window, Tensor? depth, float scale, SymInt? num_splits"
#define COMMIT_TREE_BOUND                                                                 \
  "Tensor tokens, Tensor parent, Tensor depth, Tensor first_child, Tensor next_sibling, " \
  "Tensor target_tokens, SymInt caches, Tensor[] states, Tensor(a!) prefix_lens, SymInt " \
  "max_path, "                                                                            \
  "Tensor? block_table, bool checked"
#define SCALES "Tensor? key_scale=None, Tensor? value_scale=None"
#define TREE_ATTENTION_LATER "Tensor? block_table=None, Tensor? key_bias=None, " SCALES
#define TREE_ATTENTION_LAST "Tensor? block_table, Tensor? key_bias, bool checked"
#define ACCEPTANCE "(Tensor path, Tensor accept_length, Tensor tokens)"

STABLE_TORCH_LIBRARY(SPARROW_NAMESPACE, library) {
  library.def(
      "build_tree(Tensor parent, Tensor? num_nodes) -> "
      "(Tensor parent, Tensor depth, Tensor ancestors, Tensor first_child, Tensor next_sibling, "
      "Tensor status)");
  library.def(
      "select_tree(Tensor scores, Tensor parent, SymInt num_nodes) -> "
      "(Tensor selected, Tensor parent)");
  library.def("topk_logprobs(Tensor logits, SymInt k) -> (Tensor values, Tensor ids)");
  library.def("accept_tree(Tensor tokens, " LAYOUT
              ", Tensor target_tokens, SymInt max_path) -> " ACCEPTANCE);
  library.def("sample_tokens(Tensor probs, Tensor uniform) -> Tensor");
  library.def("sample_logits(Tensor logits, Tensor uniform, float temperature) -> Tensor");
  library.def("accept_tree_residual(Tensor tokens, " LAYOUT
              ", Tensor target_probs, Tensor draft_probs, Tensor uniform, Tensor bonus_uniform, "
              "SymInt max_path) -> " ACCEPTANCE);
  library.def("accept_tree_residual_logits(Tensor tokens, " LAYOUT
              ", Tensor target_logits, Tensor draft_logits, Tensor uniform, Tensor bonus_uniform, "
              "SymInt max_path, float temperature, float draft_temperature) -> " ACCEPTANCE);
  // Beside those of `sparrow`: with their values checked.
  library.def(
      "topk_logprobs_checked(Tensor logits, SymInt k) -> "
      "(Tensor values, Tensor ids, bool is_sound)");
  library.def("sample_tokens_checked(Tensor probs, Tensor uniform) -> (Tensor ids, bool is_sound)");
  library.def(
      "sample_logits_checked(Tensor logits, Tensor uniform, float temperature) -> "
      "(Tensor ids, bool is_sound)");
  library.def(
      "residual_is_sound(Tensor tokens, Tensor parent, Tensor depth, Tensor first_child, "
      "Tensor next_sibling, Tensor target, Tensor draft, Tensor uniform, Tensor bonus_uniform, "
      "bool are_logits) -> bool");
  library.def("gather_hidden(Tensor[] states, Tensor index) -> Tensor");
  library.def("gather_hidden_out(Tensor[] states, Tensor index, Tensor(a!) out) -> ()");
  library.def(
      "compact_cache_(Tensor(a!)[] keys, Tensor(b!)[] values, Tensor path, Tensor accept_length, "
      "Tensor prefix_lens, Tensor? block_table=None) -> ()");
  library.def(
      "commit_path_(Tensor path, Tensor accept_length, Tensor(a!)[] keys, Tensor(b!)[] values, "
      "Tensor[] states, Tensor(c!) prefix_lens, Tensor? block_table=None) -> Tensor");
  library.def("commit_tree_(Tensor tokens, " LAYOUT
              ", Tensor target_tokens, Tensor(a!)[] keys, Tensor(b!)[] values, Tensor[] states, "
              "Tensor(c!) prefix_lens, SymInt max_path, Tensor? block_table=None) -> "
              "(Tensor path, Tensor accept_length, Tensor tokens, Tensor hidden)");
  library.def("tree_attention(" TREE_ATTENTION ", " TREE_ATTENTION_LATER
              ") -> (Tensor out, Tensor lse)");
  library.def("tree_attention_out(" TREE_ATTENTION
              ", Tensor(a!) out, Tensor(b!)? lse, " TREE_ATTENTION_LATER ") -> ()");
  library.def(
      "attention_mass(Tensor query, Tensor key, Tensor prefix_lens, float scale, "
      "Tensor? block_table=None, Tensor? lse=None) -> Tensor");
  library.def("merge_attention(Tensor[] outs, Tensor[] lses) -> (Tensor out, Tensor lse)");
  library.def(
      "anchored_window_attention(Tensor query, Tensor key, Tensor value, Tensor anchor_mask, "
      "SymInt window, float scale) -> (Tensor out, Tensor lse)");
  library.def(
      "anchored_window_attention_backward(Tensor grad, Tensor query, Tensor key, Tensor value, "
      "Tensor out, Tensor lse, Tensor anchor_mask, SymInt window, float scale, "
      "Tensor? grad_lse=None) -> (Tensor d_query, Tensor d_key, Tensor d_value)");
  library.def("anchors_ascend(Tensor slots, Tensor count, Tensor rank) -> bool");
  library.def(
      "append_cache_(Tensor key, Tensor value, Tensor(a!) key_cache, Tensor(b!) value_cache, "
      "Tensor prefix_lens, Tensor? block_table=None, " SCALES ") -> ()");
  library.def(
      "rotate_append_(Tensor query, Tensor key, Tensor value, Tensor cos, Tensor sin, "
      "Tensor(a!) key_cache, Tensor(b!) value_cache, Tensor prefix_lens, "
      "Tensor? block_table=None, " SCALES ") -> Tensor");
  // Of this library alone: what the ops above cost less by, and their checks of values.
  library.def("bind_caches(Tensor[] keys, Tensor[] values) -> int");
  library.def("unbind_caches(Tensor any, SymInt caches) -> ()");
  library.def(
      "compact_bound_(Tensor path, Tensor accept_length, SymInt caches, Tensor prefix_lens, "
      "Tensor? block_table, bool checked) -> ()");
  library.def(
      "commit_path_bound_(Tensor path, Tensor accept_length, SymInt caches, Tensor[] states, "
      "Tensor(a!) prefix_lens, Tensor? block_table, bool checked) -> Tensor");
  library.def("commit_tree_bound_(" COMMIT_TREE_BOUND
              ") -> (Tensor path, Tensor accept_length, Tensor tokens, Tensor hidden)");
  library.def("commit_tree_bound_out_(" COMMIT_TREE_BOUND
              ", Tensor(b!) path, Tensor(c!) accept_length, Tensor(d!) emitted, "
              "Tensor(e!) hidden) -> ()");
  library.def("tree_attention_at_once(" TREE_ATTENTION ", " TREE_ATTENTION_LAST ") -> Tensor");
  library.def("tree_attention_out_at_once(" TREE_ATTENTION
              ", Tensor(a!) out, Tensor(b!)? lse, " TREE_ATTENTION_LAST ") -> ()");
  library.def(
      "tree_commit_fits(Tensor depth, Tensor first_child, Tensor next_sibling, "
      "Tensor prefix_lens, SymInt num_blocks, SymInt block_size, Tensor? block_table) -> bool");
  library.def(
      "path_commit_fits(Tensor path, Tensor accept_length, Tensor prefix_lens, "
      "SymInt num_blocks, SymInt block_size, Tensor? block_table, SymInt num_nodes) -> bool");
  library.def(
      "append_fits(Tensor prefix_lens, SymInt num_rows, SymInt num_blocks, SymInt block_size, "
      "Tensor? block_table) -> bool");
}
