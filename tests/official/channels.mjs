// Channels (x402 batch-settlement): `kind` is "seller" (@x402/express) or "buyer" (@x402/fetch).
// First line: {kind, rpc, chainId, usdc, key, name?, version?}, of a seller {payTo, price, facilitator?} too;
// `key` is a buyer's, and the receiverAuthorizer of a seller; without `facilitator` (a URL) it also pays the
// gas of the official one in this process. A seller answers {url}, a buyer {address}.
// A seller's commands: {claim: true} claims every voucher and has it paid out, {} says {handled}.
// A buyer's: {url} buys once, answered like buyer.mjs; {url, refund: true} asks for what is left.
import { createServer } from "node:http";
import { once } from "node:events";
import { createPublicClient, http } from "viem";
import { privateKeyToAccount } from "viem/accounts";
import { HTTPFacilitatorClient, x402ResourceServer } from "@x402/core/server";
import { BatchSettlementEvmScheme as Server } from "@x402/evm/batch-settlement/server";
import { BatchSettlementEvmScheme as Client } from "@x402/evm/batch-settlement/client";
import express from "express";
import { paymentMiddleware } from "@x402/express";
import { wrapFetchWithPaymentFromConfig } from "@x402/fetch";
import { local } from "./facilitator.mjs";
import { chainOf, noting, serve, told } from "./lines.mjs";

serve((config) => kinds[config.kind](config));

const kinds = {
  async seller(config) {
    const { chainId, usdc, payTo, price, name = "USDC", version = "2" } = config;
    const network = `eip155:${chainId}`;
    const facilitator = config.facilitator
      ? new HTTPFacilitatorClient({ url: config.facilitator })
      : local(config);
    const receiverAuthorizerSigner = privateKeyToAccount(config.key);
    const scheme = new Server(payTo, { receiverAuthorizerSigner, withdrawDelay: 900 });
    const server = new x402ResourceServer(facilitator).register(network, scheme);
    const manager = scheme.createChannelManager(facilitator, network, usdc);
    const app = express();
    const accepts = {
      scheme: "batch-settlement",
      network,
      payTo,
      price: { amount: price, asset: usdc, extra: { name, version } },
      maxTimeoutSeconds: 60,
    };
    app.use(paymentMiddleware({ "/paid": { accepts, description: "a call" } }, server));
    let handled = 0;
    app.get("/paid", (_, response) => response.json({ sold: ++handled }));
    const listening = createServer(app);
    listening.listen(0, "127.0.0.1");
    await once(listening, "listening");
    const answer = async ({ claim }) => (claim ? manager.claimAndSettle() : { handled });
    return { ready: { url: `http://127.0.0.1:${listening.address().port}/paid` }, answer };
  },

  async buyer(config) {
    const account = privateKeyToAccount(config.key);
    const node = createPublicClient({ chain: chainOf(config), transport: http(config.rpc) });
    const signer = { ...account, readContract: (call) => node.readContract(call) };
    const client = new Client(signer);
    const sent = [];
    const fetch = noting(sent);
    const allowedAssets = [{ network: `eip155:${config.chainId}`, asset: config.usdc }];
    const schemes = [{ network: "eip155:*", client }];
    const pay = wrapFetchWithPaymentFromConfig(fetch, { schemes, spendControls: { allowedAssets } });
    const answer = async ({ url, refund }) =>
      refund ? client.refund(url) : told(await pay(url), sent);
    return { ready: { address: account.address }, answer };
  },
};
