"""The use cases, in the order the RFCs give."""
