"""One model of a month, and what is made of it: terminal, CSV, JSON, HTML, PDF."""
