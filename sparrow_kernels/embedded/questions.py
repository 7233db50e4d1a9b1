"""The questions that the embedded target has been trained on."""

from __future__ import annotations

# The part, where a question names one, is {part}.
QUESTIONS: dict[str, tuple[str, ...]] = {
    "describe": (
        "Describe the video in detail.",
        "Describe this video.",
        "What happens in the video?",
        "What do you see in this clip?",
        "Please give a detailed description of the clip.",
    ),
    "color": (
        "What color is the object in part {part}?",
        "Which color does the object in part {part} have?",
        "Tell me the color of the object in part {part}.",
        "In part {part}, what is the color of the object?",
    ),
    "count": (
        "How many parts does the video have?",
        "How many parts are there?",
        "Count the parts of this video.",
        "What is the number of parts in the clip?",
    ),
    "shape": (
        "What shape is the object in part {part}?",
        "Which shape does the object in part {part} have?",
        "Tell me the shape of the object in part {part}.",
        "In part {part}, what is the shape of the object?",
    ),
    "action": (
        "What is the object in part {part} doing?",
        "What does the object do in part {part}?",
        "Tell me what the object in part {part} is doing.",
        "In part {part}, what is the object doing?",
    ),
}
