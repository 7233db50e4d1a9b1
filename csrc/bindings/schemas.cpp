// The schemas of the `sparrow_native` ops: those of `sparrow`, argument for argument.
#include "bindings/library.h"

#define LAYOUT \
  "Tensor parent, Tensor depth, Tensor ancestors, Tensor first_child, Tensor next_sibling"
#define TREE_ATTENTION                                                                       \
  "Tensor query, Tensor key, Tensor value, Tensor ancestors, Tensor prefix_lens, "           \
  "Tensor? prefix_starts, Tensor? anchor_slots, Tensor? anchor_count, Tensor? anchor_rank, " \
  "SymInt? window, Tensor? depth, float scale, SymInt? num_splits"
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
  library.def("gather_hidden(Tensor[] states, Tensor index) -> Tensor");
  library.def("gather_hidden_out(Tensor[] states, Tensor index, Tensor(a!) out) -> ()");
  library.def(
      "compact_cache_(Tensor(a!)[] keys, Tensor(b!)[] values, Tensor path, Tensor accept_length, "
      "Tensor prefix_lens) -> ()");
  library.def(
      "commit_path_(Tensor path, Tensor accept_length, Tensor(a!)[] keys, Tensor(b!)[] values, "
      "Tensor[] states, Tensor(c!) prefix_lens) -> Tensor");
  library.def("commit_tree_(Tensor tokens, " LAYOUT
              ", Tensor target_tokens, Tensor(a!)[] keys, Tensor(b!)[] values, Tensor[] states, "
              "Tensor(c!) prefix_lens, SymInt max_path) -> "
              "(Tensor path, Tensor accept_length, Tensor tokens, Tensor hidden)");
  library.def("tree_attention(" TREE_ATTENTION ") -> (Tensor out, Tensor lse)");
  library.def("tree_attention_out(" TREE_ATTENTION ", Tensor(a!) out, Tensor(b!)? lse) -> ()");
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
      "Tensor prefix_lens) -> ()");
  library.def(
      "rotate_append_(Tensor query, Tensor key, Tensor value, Tensor cos, Tensor sin, "
      "Tensor(a!) key_cache, Tensor(b!) value_cache, Tensor prefix_lens) -> Tensor");
}
