"""Plans for TPU slices without one: compiled programs, their collectives, chips, and a doctor."""
