"""The prompts of benchmarks. Data only: motion, fine detail, and a face."""

PROMPTS = (
    "A red fox runs through fresh snow between dark pines, low winter sun, the camera follows it from the side",
    "Rain falls on a busy market street at night, neon signs reflected in puddles, people with umbrellas walk past",
    "Portrait of an old fisherman who turns his head and smiles, wrinkled skin, grey beard, soft light from a window",
)
