// A server with Moesif's middleware for Node: `node node_client.js COLLECTOR`; a GET, and what it tells of callers.
"use strict";

const http = require("http");
const moesif = require("moesif-nodejs");

const middleware = moesif({
  applicationId: "any-application-id-of-more-than-fifty-characters-will-do",
  baseUri: process.argv[2],
  batchMaxTime: 501,
  identifyUser: () => "ada",
});

const told = (how, what) => new Promise((done, failed) => how(what, (error) => (error ? failed(error) : done())));

const server = http.createServer((request, response) => {
  middleware(request, response, () => {
    response.setHeader("Content-Type", "application/json");
    response.end('{"made": "by node"}');
  });
});

server.listen(0, "127.0.0.1", async () => {
  await fetch(`http://127.0.0.1:${server.address().port}/orders`);
  await told(middleware.updateUser, { userId: "ada", metadata: { plan: "gold" } });
  await told(middleware.updateUsersBatch, [{ userId: "bob" }, { userId: "cy" }]);
  await told(middleware.updateCompany, { companyId: "acme" });
  await told(middleware.updateCompaniesBatch, [{ companyId: "ajax" }]);
  await told(middleware.updateSubscription, { subscriptionId: "s1", companyId: "acme", status: "active" });
  server.close();
});
