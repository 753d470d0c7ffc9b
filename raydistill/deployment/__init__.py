"""What a finished run gives: loaded networks, exports, predictions into tables, answers to HTTP requests."""
