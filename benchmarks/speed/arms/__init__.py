"""What runs at the other end of an arm: the product, a bare loop, and peers in their own environments."""
