from contract_general import GeneralContract


class TestAGLRec(GeneralContract):
    model = "AGLRec"
    config = {"text_dim": 8, "cold_hidden_size": 8, "temperature": 0.1}
    scores_cold_items = True
