// Lets Python import the library: its ops are registered by csrc/bindings when it is loaded.
#include "registration.h"

REGISTER_EXTENSION(TORCH_EXTENSION_NAME)
