// Starts Swagger UI: the policy of the page forbids inline scripts.
const given = await (await fetch("openapi.json")).json();
SwaggerUIBundle({
  // Requests go to where the page is: a proxy may serve a sub-path.
  spec: { ...given, servers: [{ url: new URL(".", location.href).href.slice(0, -1) }] },
  dom_id: "#swagger-ui",
  deepLinking: true,
  presets: [SwaggerUIBundle.presets.apis],
});
