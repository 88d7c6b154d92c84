#!/usr/bin/env python3
from n2s_dist.cli import main

main("ship")
