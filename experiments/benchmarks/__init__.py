"""How long things take and how much memory they need.  Printed, never asserted in a test."""
