"""The miniature base and the adapter that ship with sdseg, and the script that trained the base; see README.md."""
