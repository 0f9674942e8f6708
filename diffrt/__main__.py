"""python -m diffrt"""

from diffrt.cli import main

main()
