"""What `acmeca doctor` looks at. Each check takes what it needs, changes nothing, and gives findings.

Rule 1: a check never fails itself: what it could not look at is a finding that says why.
Rule 2: a finding says what was looked at, what was found, and, unless all is well, what to do about it.
"""
