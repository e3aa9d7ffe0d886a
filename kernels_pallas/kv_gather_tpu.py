def fits(slots):
    return False
