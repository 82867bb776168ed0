"""The doctor: from what a run recorded to what is wrong with it, and which setting to change."""
