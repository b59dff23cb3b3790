// Sellers: `kind` is "express", "hono" (@x402/*) or "mppx".
// First line: {kind, rpc, chainId, usdc, key, payTo, price, facilitator?, name?, version?}. `key` is the gas
// key of the official facilitator in this process; with `facilitator` (a URL) that one is asked instead.
// `price` is in base units. Answered with {url}; what is for sale is any method on `url`/paid.
// Then {set: {...}} changes how it behaves, and every command is answered with what happened so far:
// {handled, verified, settled, settlements, payer}; `payer` is what buyers last said of themselves.
//   handler: status that the handler answers with (default 200)
//   offer: fields that replace those of each offer that goes out, as {payTo: "0x…"}
//   verify: "refuse"
//   settle: "fail" (nothing is sent), "pending" (sent, and said to be unknown), "lose" (sent, then the
//     connection to the buyer is cut), "refuse-after" (sent, and then said to have failed)
//   slow_ms: pause before a settlement
import { createServer } from "node:http";
import { once } from "node:events";
import { HTTPFacilitatorClient, x402ResourceServer } from "@x402/core/server";
import { ExactEvmScheme as ExactServer } from "@x402/evm/exact/server";
import express from "express";
import { paymentMiddleware as expressPayments } from "@x402/express";
import { Hono } from "hono";
import { getRequestListener } from "@hono/node-server";
import { paymentMiddleware as honoPayments } from "@x402/hono";
import { Mppx } from "mppx/server";
import { evm } from "mppx/evm/server";
import { local } from "./facilitator.mjs";
import { serve } from "./lines.mjs";

serve(async (config) => {
  const state = { set: {}, seen: { handled: 0, verified: 0, settled: 0, settlements: [] } };
  const facilitator = watched(config.facilitator ? remote(config) : local(config), state);
  const listen = await kinds[config.kind](config, state, facilitator);
  const server = createServer((request, response) => {
    state.cut = () => request.socket.destroy();
    state.seen.payer = request.headers["payer-metadata"] ?? state.seen.payer;
    listen(request, response);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const answer = async ({ set }) => {
    if (set) state.set = set;
    return state.seen;
  };
  return { ready: { url: `http://127.0.0.1:${server.address().port}/paid` }, answer };
});

const network = ({ chainId }) => `eip155:${chainId}`;

function remote({ facilitator }) {
  return new HTTPFacilitatorClient({ url: facilitator });
}

/** A facilitator that counts, and misbehaves where told to. */
function watched(inner, state) {
  return {
    getSupported: () => inner.getSupported(),
    async verify(payload, requirements) {
      state.seen.verified += 1;
      if (state.set.verify === "refuse") {
        return { isValid: false, invalidReason: "invalid_payload" };
      }
      return inner.verify(payload, requirements);
    },
    async settle(payload, requirements) {
      state.seen.settled += 1;
      const { settle, slow_ms } = state.set;
      const empty = { success: false, transaction: "", network: requirements.network };
      if (slow_ms) await new Promise((done) => setTimeout(done, slow_ms));
      if (settle === "fail") return { ...empty, errorReason: "unexpected_settle_error" };
      const result = await inner.settle(payload, requirements);
      state.seen.settlements.push(result);
      const { transaction } = result;
      if (settle === "pending") return { ...empty, transaction, errorReason: "settlement_pending" };
      if (settle === "refuse-after") return { ...empty, errorReason: "invalid_transaction_state" };
      if (settle === "lose") state.cut();
      return result;
    },
  };
}

/** What is for sale: how often the handler ran, and what it was asked. */
function handle(state, method, body) {
  state.seen.handled += 1;
  return [state.set.handler ?? 200, { sold: state.seen.handled, method, body }];
}

const routes = (config) => ({
  "/paid": {
    accepts: {
      scheme: "exact",
      network: network(config),
      payTo: config.payTo,
      price: {
        amount: config.price,
        asset: config.usdc,
        extra: { name: config.name ?? "USDC", version: config.version ?? "2", ...config.extra },
      },
      maxTimeoutSeconds: 60,
    },
    description: "one paid answer",
    mimeType: "application/json",
  },
});

function resourceServer(config, facilitator) {
  const scheme = new ExactServer();
  // What the package's scheme does not offer by itself, but every facilitator that settles it.
  const method = config.extra?.assetTransferMethod;
  if (method) scheme.paymentFlows = { ...scheme.paymentFlows, [method]: scheme.paymentFlows.eip3009 };
  return new x402ResourceServer(facilitator).register(network(config), scheme);
}

/** Rewrites the offers of a 402 on its way out, if told to. */
function spoofed(value, state) {
  if (!value || !state.set.offer) return value;
  const decoded = JSON.parse(Buffer.from(String(value), "base64"));
  for (const offer of decoded.accepts) Object.assign(offer, state.set.offer);
  return Buffer.from(JSON.stringify(decoded)).toString("base64");
}

const kinds = {
  async express(config, state, facilitator) {
    const app = express();
    app.use(express.text({ type: "*/*" }));
    app.use((_, response, next) => {
      const set = response.setHeader.bind(response);
      response.setHeader = (name, value) =>
        set(name, name.toLowerCase() === "payment-required" ? spoofed(value, state) : value);
      next();
    });
    app.use(expressPayments(routes(config), resourceServer(config, facilitator)));
    app.all("/paid", (request, response) => {
      const [status, body] = handle(state, request.method, request.body || null);
      response.status(status).json(body);
    });
    return app;
  },
  async hono(config, state, facilitator) {
    const app = new Hono();
    app.use(async (context, next) => {
      await next();
      const value = context.res.headers.get("payment-required");
      if (value) context.res.headers.set("payment-required", spoofed(value, state));
    });
    app.use(honoPayments(routes(config), resourceServer(config, facilitator)));
    app.all("/paid", async (context) => {
      const [status, body] = handle(state, context.req.method, (await context.req.text()) || null);
      return context.json(body, status);
    });
    return getRequestListener(app.fetch);
  },
  async mppx(config, state, facilitator) {
    const { chainId, usdc, payTo, price, name = "USDC", version = "2" } = config;
    const mppx = Mppx.create({
      realm: "127.0.0.1",
      secretKey: "a test's secret of thirty-two bytes and more",
      methods: [
        evm.charge({
          currency: usdc,
          chainId,
          decimals: 6,
          recipient: payTo,
          authorization: { name, version },
          settle: ({ payload, request }) => settleMpp(facilitator, payload, request, config),
        }),
      ],
    });
    const amount = (Number(price) / 1e6).toFixed(6);
    const fetch = async (request) => {
      const result = await mppx.charge({ amount })(request);
      if (result.status === 402) return result.challenge;
      const [status, body] = handle(state, request.method, (await request.text()) || null);
      return result.withReceipt(Response.json(body, { status }));
    };
    return getRequestListener(fetch);
  },
};

/** Settles an authorization of MPP, which is x402's `exact` under another name. */
async function settleMpp(facilitator, payload, request, config) {
  const { signature, from, to, value, validAfter, validBefore, nonce } = payload;
  const requirements = {
    scheme: "exact",
    network: network(config),
    asset: request.currency,
    amount: request.amount,
    payTo: request.recipient,
    maxTimeoutSeconds: 60,
    extra: { name: config.name ?? "USDC", version: config.version ?? "2" },
  };
  const authorization = { from, to, value, validAfter, validBefore, nonce };
  const body = { x402Version: 2, accepted: requirements, payload: { signature, authorization } };
  const result = await facilitator.settle(body, requirements);
  if (!result.success) throw new Error(result.errorReason);
  return { reference: result.transaction };
}
