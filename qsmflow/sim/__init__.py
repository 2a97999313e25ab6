"""Digital subjects: anatomy, signal and the BIDS data sets made of them."""
