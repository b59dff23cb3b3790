// Buyers: `kind` is "x402" (@x402/fetch), "named" (the same with @x402/extensions, which names each purchase
// as its order's `id` says) or "mppx".
// First line: {kind, rpc, chainId, usdc, key, name, version}; then {url, method?, headers?, body?, id?}, answered
// with {status, headers, body, requests}. {again: true} sends the last paid request once more as it was.
import { wrapFetchWithPayment, wrapFetchWithPaymentFromConfig, x402Client } from "@x402/fetch";
import { appendPaymentIdentifierToExtensions } from "@x402/extensions/payment-identifier";
import { ExactEvmScheme } from "@x402/evm";
import { Mppx } from "mppx/client";
import { evm } from "mppx/evm/client";
import { privateKeyToAccount } from "viem/accounts";
import { noting, serve, told } from "./lines.mjs";

serve(async (config) => {
  const account = privateKeyToAccount(config.key);
  const sent = [];
  const plain = noting(sent);
  const order = { id: null };
  const pay = kinds[config.kind](config, account, plain, order);
  let last = null;
  const answer = async ({ again, url, method = "GET", headers = {}, body, id }) => {
    if (again) return told(await plain(last.url, last.init), sent);
    order.id = id;
    const response = await pay(url, { method, headers, body });
    const paid = sent.at(-1);
    last = { url, init: { method, headers: paid.headers, body } };
    return told(response, sent);
  };
  return { ready: { address: account.address }, answer };
});

const x402 = ({ chainId, usdc }, account) => ({
  schemes: [{ network: "eip155:*", client: new ExactEvmScheme(account) }],
  // The default table knows Base Sepolia's USDC and no local chain.
  ...(chainId === 84532
    ? {}
    : { spendControls: { allowedAssets: [{ network: `eip155:${chainId}`, asset: usdc }] } }),
});

const kinds = {
  x402: (config, account, fetch) => wrapFetchWithPaymentFromConfig(fetch, x402(config, account)),
  named: (config, account, fetch, order) => {
    const client = x402Client.fromConfig(x402(config, account));
    client.onBeforePaymentCreation(async ({ paymentRequired }) => {
      appendPaymentIdentifierToExtensions(paymentRequired.extensions, order.id);
    });
    return wrapFetchWithPayment(fetch, client);
  },
  mppx: ({ chainId, usdc, name = "USDC", version = "2" }, account, fetch) =>
    Mppx.create({
      fetch,
      polyfill: false,
      methods: [
        evm.charge({
          account,
          authorization: { name, version },
          currencies: [usdc],
          networks: [chainId],
          decimals: 6,
        }),
      ],
    }).fetch,
};
