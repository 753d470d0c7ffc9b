"""How much raydistill costs beyond the arithmetic in it."""
