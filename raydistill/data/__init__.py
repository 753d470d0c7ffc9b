"""Examples: where they come from, how they are split, and how they are mapped into memory."""
