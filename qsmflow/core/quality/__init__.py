"""How good an acquisition and its maps are, told without a reference."""
