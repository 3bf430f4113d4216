// The interface, to be read and tried: Swagger UI over what the service says of itself.

SwaggerUIBundle({ url: "openapi.json", dom_id: "#interface", deepLinking: true, validatorUrl: null });
