"""A published study, rerun: chaos and stability of a small network's training (Danovski, Soriano, Lacasa 2024)."""
