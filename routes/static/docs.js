"use strict";

const place = document.getElementById("api-reference");
const wantsDark = window.matchMedia("(prefers-color-scheme: dark)");

function followColorScheme() {
  document.documentElement.classList.toggle("dark-mode", wantsDark.matches);
}

wantsDark.addEventListener("change", followColorScheme);
followColorScheme();

SwaggerUIBundle({
  url: place.dataset.document,
  domNode: place,
  deepLinking: true,
  defaultModelsExpandDepth: -1,
  displayRequestDuration: true,
  // A key that was entered is not kept in the browser.
  persistAuthorization: false,
  // Its default asks another host whether the document is valid.
  validatorUrl: null,
});
