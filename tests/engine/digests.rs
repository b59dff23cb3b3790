//! The typed data of this crate, signed, against the real contract.

use alloy::{
    eips::BlockId,
    primitives::{Address, B256, Bytes, Signature, U256, aliases::U40, keccak256},
    providers::Provider as _,
    signers::{SignerSync, local::PrivateKeySigner},
    sol_types::{SolCall, SolStruct},
};
use bursar::contract::{
    self, ApprovedPayment, Batch, Change, IPolicyChanges, IPolicyWallet, PayBatch, Payment,
    Tighten,
    coupon::{self, CouponGrant, IX402Payer, Redemption},
    hub::{self, ChannelClosing, ChannelConfig, ChannelFunding, Hub, IChannelHub, IChannelPayer},
    token::{TransferWithAuthorization, token_domain},
};

use crate::support::{Plan, World};

fn sign(world: &World, message: &impl SolStruct, key: &PrivateKeySigner) -> Signature {
    let domain = contract::domain(world.card.chain_id, world.card.wallet);
    key.sign_hash_sync(&contract::digest(message, &domain)).unwrap()
}

fn compact(signature: &Signature) -> (B256, B256) {
    let bytes = signature.as_erc2098();
    (B256::from_slice(&bytes[..32]), B256::from_slice(&bytes[32..]))
}

/// Two of three operators over a message.
fn quorum(world: &World, message: &impl SolStruct) -> Bytes {
    let keys = [world.operator_key(2), world.operator_key(0)];
    let pairs = keys.iter().map(|key| (key.address(), sign(world, message, key)));
    contract::encode_quorum(pairs.collect())
}

async fn relay(world: &World, call: impl SolCall) {
    let data = call.abi_encode().into();
    world.chain.send_from(world.card.deployer, world.card.wallet, data).await;
}

#[tokio::test]
async fn the_contract_takes_every_digest_of_this_crate() {
    let world = Plan::new().automine().without_daemon().await;
    let atlas = world.daemon_keys().agent(0).unwrap();
    assert_eq!(atlas.address(), world.address("atlas"));
    let to = world.payee("acme-data");
    let deadline = U256::from(jiff::Timestamp::now().as_second().unsigned_abs() + 3_600);
    let context = keccak256("a context");

    let payment = Payment {
        agent: atlas.address(),
        to,
        amount: U256::from(1_000_000),
        nonce: U256::from(1),
        deadline,
        context,
    };
    let (r, vs) = compact(&sign(&world, &payment, &atlas));
    let call = IPolicyWallet::payCall {
        agent: payment.agent,
        to,
        amount: payment.amount,
        nonce: payment.nonce,
        deadline,
        context,
        r,
        vs,
    };
    // One unit more than what was signed is not paid.
    let more = IPolicyWallet::payCall { amount: payment.amount + U256::from(1), ..call.clone() };
    let tried = serde_json::json!([{
        "to": world.card.wallet, "data": Bytes::from(more.abi_encode()),
    }, "latest"]);
    let refused = world.chain.try_rpc("eth_call", tried).await.unwrap_err();
    assert!(refused.contains("revert"), "{refused}");
    relay(&world, call).await;
    assert_eq!(world.chain.usdc_of(to).await, 1_000_000);

    let items = vec![contract::item(to, 2_000_000), contract::item(world.payee("llm-hub"), 3)];
    let batch = PayBatch {
        agent: atlas.address(),
        nonce: U256::from(2),
        deadline,
        context,
        items: items.clone(),
    };
    let (r, vs) = compact(&sign(&world, &batch, &atlas));
    let batches =
        vec![Batch { agent: batch.agent, nonce: batch.nonce, deadline, context, items, r, vs }];
    relay(&world, IPolicyWallet::payBatchCall { batches }).await;
    assert_eq!(world.chain.usdc_of(to).await, 3_000_000);
    assert_eq!(world.chain.usdc_of(world.payee("llm-hub")).await, 3);

    let approved = ApprovedPayment {
        agent: atlas.address(),
        to,
        amount: U256::from(900_000_000),
        nonce: U256::from(3),
        deadline,
        context,
        overrides: U256::from(1),
        policyVersion: version(&world, atlas.address()).await,
    };
    let (r, vs) = compact(&sign(&world, &approved, &atlas));
    let call = IPolicyWallet::payApprovedCall {
        agent: approved.agent,
        to,
        amount: approved.amount,
        nonce: approved.nonce,
        deadline,
        context,
        overrides: approved.overrides,
        policyVersion: approved.policyVersion,
        r,
        vs,
        quorum: quorum(&world, &approved),
    };
    relay(&world, call).await;
    assert_eq!(world.chain.usdc_of(to).await, 903_000_000);

    let raise = IPolicyChanges::setWalletCapCall { cap: U256::from(200_000_000_000_u64) };
    let change = Change { change: raise.abi_encode().into(), nonce: U256::from(4), deadline };
    let call = IPolicyWallet::submitCall {
        change: change.change.clone(),
        nonce: change.nonce,
        deadline,
        quorum: quorum(&world, &change),
    };
    relay(&world, call).await;
    world.chain.pass(u64::from(world.card.delay_s) + 1).await;
    relay(&world, IPolicyWallet::executeCall { change: change.change }).await;
    let wallet = IPolicyWallet::new(world.card.wallet, &world.chain.node);
    assert_eq!(wallet.walletCap().call().await.unwrap(), U256::from(200_000_000_000_u64));

    let freeze = IPolicyChanges::setFrozenCall { agent: atlas.address(), frozen: true };
    let order = Tighten { change: freeze.abi_encode().into(), nonce: U256::from(5), deadline };
    let omar = world.operator_key(1);
    let call = IPolicyWallet::tightenWithSignatureCall {
        change: order.change.clone(),
        signer: omar.address().to_vec().into(),
        nonce: order.nonce,
        deadline,
        signature: sign(&world, &order, &omar).as_bytes().into(),
    };
    relay(&world, call).await;
    assert!(world.chain.is_frozen(atlas.address()).await);
}

/// The newest block's time, unix seconds.
async fn clock(world: &World) -> u64 {
    let block = world.chain.node.get_block(BlockId::latest()).await.unwrap().unwrap();
    block.header.timestamp
}

async fn version(world: &World, agent: Address) -> U256 {
    let wallet = IPolicyWallet::new(world.card.wallet, &world.chain.node);
    wallet.agentLimits(agent).call().await.unwrap().version
}

/// A coupon through the token, a redemption and a channel through the wallet, each as this crate
/// builds it, with the allotment that the devnet gives.
#[tokio::test]
async fn the_doors_for_402_take_what_this_crate_signs() {
    let world = Plan::new().automine().without_daemon().await;
    let atlas = world.daemon_keys().agent(0).unwrap();
    let (to, card, node) = (world.payee("acme-data"), &world.card, &world.chain.node);
    let payer = IX402Payer::new(card.wallet, node);
    let grant = CouponGrant::unpack(payer.coupons(atlas.address()).call().await.unwrap());
    assert_eq!((grant.period_s, grant.allotment()), (3_600, 25_000_000));
    let deadline = U256::from(jiff::Timestamp::now().as_second().unsigned_abs() + 90_000);
    let context = keccak256("a context");

    // Well inside a period, whatever the clock says.
    let length = u64::from(grant.period_s);
    let now = clock(&world).await;
    world.chain.pass(length - now % length + 60).await;
    let period = grant.period(clock(&world).await).unwrap();
    let class = grant.fitting(30_000)[0];
    let index = coupon::index(class, grant.classes[class].count - 1);
    let transfer = TransferWithAuthorization {
        from: card.wallet,
        to,
        value: U256::from(30_000),
        validAfter: U256::from(period * length),
        validBefore: U256::from((period + 1) * length),
        nonce: coupon::nonce(atlas.address(), period, index),
    };
    let token = token_domain("USDC", "2", card.chain_id, card.usdc);
    let digest = contract::digest(&transfer, &token);
    let blob = coupon::blob(&transfer, index, &atlas.sign_hash_sync(&digest).unwrap());
    world.chain.send_from(card.deployer, card.usdc, transfer.call(&blob)).await;
    assert_eq!(world.chain.usdc_of(to).await, 30_000);
    // The next number is one too many.
    let beyond = coupon::index(class, grant.classes[class].count);
    let other = TransferWithAuthorization {
        nonce: coupon::nonce(atlas.address(), period, beyond),
        ..transfer
    };
    let digest = contract::digest(&other, &token);
    let blob = coupon::blob(&other, beyond, &atlas.sign_hash_sync(&digest).unwrap());
    let said = payer.isValidSignature(digest, blob).call().await.unwrap();
    assert_eq!(said, [0xff; 4]);

    let redemption = Redemption {
        agent: atlas.address(),
        redeemer: card.deployer,
        nonce: U256::from(1),
        deadline,
        context,
        to,
        amount: U256::from(70_000),
    };
    let signature = sign(&world, &redemption, &atlas);
    let call = IX402Payer::redeemDelegationsCall {
        contexts: vec![redemption.context(&signature)],
        modes: vec![B256::ZERO],
        executions: vec![redemption.execution(card.usdc)],
    };
    relay(&world, call).await;
    assert_eq!(world.chain.usdc_of(to).await, 100_000);

    let channel = ChannelConfig {
        payer: card.wallet,
        payerAuthorizer: atlas.address(),
        receiver: to,
        receiverAuthorizer: to,
        token: card.usdc,
        withdrawDelay: U40::from(900),
        salt: keccak256("a channel"),
    };
    let before = world.chain.usdc_of(card.wallet).await;
    let funding = ChannelFunding {
        nonce: U256::from(2),
        deadline,
        context,
        overrides: U256::ZERO,
        policyVersion: U256::ZERO,
        amount: 5_000_000,
        channel: channel.clone(),
    };
    let (r, vs) = compact(&sign(&world, &funding, &atlas));
    relay(&world, IChannelPayer::fundChannelCall { funding, r, vs, quorum: Bytes::new() }).await;
    let id = Hub::new(card.chain_id, hub::HUB).channel_id(&channel);
    let held = IChannelHub::new(hub::HUB, node).channels(id).call().await.unwrap();
    assert_eq!((held.balance, held.totalClaimed), (5_000_000, 0));
    let closing = ChannelClosing { channelId: id, deadline };
    let (r, vs) = compact(&sign(&world, &closing, &atlas));
    relay(&world, IChannelPayer::closeChannelCall { channel: channel.clone(), deadline, r, vs })
        .await;
    world.chain.pass(901).await;
    relay(&world, IChannelPayer::finishChannelCall { channel }).await;
    assert_eq!(world.chain.usdc_of(card.wallet).await, before);
}
