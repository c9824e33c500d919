"""The PyTorch rail. Importing this is light; `bp_cuda.rail` brings torch."""
