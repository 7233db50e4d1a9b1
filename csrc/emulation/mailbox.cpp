#include <utility>

#include "emulation/running.h"

namespace sparrow::emulation {

Mailbox& Scheduler::mailbox(const void* key) {
  const auto box = mailboxes_.find(key);
  if (box == mailboxes_.end()) fail("a mailbox that nobody has opened");
  return box->second;
}

void Scheduler::deliver_one() {
  std::swap(letters_[shuffler_.below(static_cast<unsigned>(letters_.size()))], letters_.back());
  const Letter letter = letters_.back();
  letters_.pop_back();
  const Block& block = *letter.box->block;
  if (block.done == block.threads.size()) {
    failure_ = "sent to a block that has left, " + std::to_string(block.index.x);
    return;
  }
  std::memcpy(letter.to, letter.value, letter.bytes);
  letter.box->bytes -= static_cast<int64_t>(letter.bytes);
  complete_if_all_came(*letter.box);
}

void Scheduler::complete_if_all_came(Mailbox& box) {
  if (!box.is_expected || box.bytes != 0) return;
  box.is_expected = false;
  ++box.phases;
  box.complete = order_.tick();
  box.senders_complete = std::exchange(box.senders, std::make_shared<Senders>());
  for (Thread* thread : box.waiting) wake(*thread);
  box.waiting.clear();
}

void mailbox_open(const void* box) {
  Block& block = *here().block;
  uint32_t turn = 0;
  for (const auto& [key, other] : scheduler->mailboxes_) turn += other.block == &block;
  if (turn == 2) scheduler->fail("a block with more than two mailboxes");
  Mailbox& opened = scheduler->mailboxes_[box] = {};
  opened.block = &block;
  opened.turn = turn;
}

void mailbox_expect(const void* key, size_t bytes) {
  Mailbox& box = scheduler->mailbox(key);
  if (box.block != here().block) scheduler->fail("another block's mailbox");
  if (box.is_expected) scheduler->fail("a mailbox expects twice in a phase");
  box.is_expected = true;
  box.bytes += static_cast<int64_t>(bytes);
  scheduler->complete_if_all_came(box);
}

void mailbox_send(void* to, const void* value, size_t bytes, const void* key) {
  Mailbox& box = scheduler->mailbox(key);
  const Actor sender = here().actor;
  scheduler->report(
      scheduler->shadow_.access(scheduler->order_, sender, Actor::mailbox(box.block->id, box.turn),
                                to, bytes, Access::kWrite),
      "a sent value");
  scheduler->order_.send(sender, *box.senders);
  Letter letter{.to = to, .value = {}, .bytes = bytes, .box = &box};
  std::memcpy(letter.value, value, bytes);
  scheduler->letters_.push_back(letter);
  maybe_interrupt();
}

void mailbox_wait(const void* key, unsigned parity) {
  Mailbox& box = scheduler->mailbox(key);
  while (box.phases % 2 == parity) {
    box.waiting.push_back(&here());
    scheduler->wait("a mailbox", std::source_location::current());
  }
  scheduler->order_.receive(here().actor, box.turn, box.complete, box.senders_complete);
  if (scheduler->chance(4)) scheduler->interrupt();
}

}  // namespace sparrow::emulation
