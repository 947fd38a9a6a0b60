"""One process or several: sums that they share, and weights spread over them."""
