"use strict";

const place = document.getElementById("api-reference");
const wantsDark = window.matchMedia("(prefers-color-scheme: dark)");

function followColorScheme() {
  document.documentElement.classList.toggle("dark-mode", wantsDark.matches);
}

wantsDark.addEventListener("change", followColorScheme);
followColorScheme();

// The document names PUBLIC_URL, for programs; this page calls the service that it came from, and no other host.
function callOwnService(request) {
  const path = request.url.slice(request.url.indexOf("/v1/"));
  request.url = new URL(path, window.location.origin).href;
  return request;
}

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
  requestInterceptor: callOwnService,
});
