"""Other forms of the sums of addition than the scratchpad: one file a form."""
