"""What rewards pay for and what labelers read, on real and phantom reports, without training."""
