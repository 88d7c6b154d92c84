#!/usr/bin/env python3
from n2s_dist.cli import main

if __name__ == "__main__":  # worker processes import this file as well
    main("ship")
