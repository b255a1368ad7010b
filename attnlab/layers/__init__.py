"""What surrounds a mechanism in a layer: norms, projections, rotary positions. Written once."""
