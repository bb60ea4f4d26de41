"""The way from item to line as one reads it; the fused loop does the same, faster."""
