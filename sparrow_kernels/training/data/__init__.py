"""From dialogues, or clips drawn here, to the rows that a draft is trained on."""
