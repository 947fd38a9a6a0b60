"""What `trl_oracle.py` compares with TRL: losses, log, token ids; run in an environment with TRL."""
