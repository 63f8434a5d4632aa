"""Pictures and live views of what freehold measures."""
