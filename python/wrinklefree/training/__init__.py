"""The stages that make a ternary model, and what they are made of."""
