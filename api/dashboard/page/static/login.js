// On the sign-in page: keeps the part of the address after `#`, which browsers do not send to the server. The form's
// address gets it, and the redirect that follows inherits it.
"use strict";

document.getElementById("sign-in").action += location.hash;
