"""stub"""
AdId = int | str
class AdIndex: pass
