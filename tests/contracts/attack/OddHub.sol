// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {ChannelConfig, IChannelPayer} from "contracts/interfaces/IChannelHub.sol";

/// @dev A hub that fetches in one chosen wrong way. No channel of its own: what is asked is what it gets from `collect`.
contract OddHub {
    enum Way {
        Good,
        MoreMoney,
        OtherChannel,
        OtherPayer,
        OtherToken,
        Twice,
        Never,
        FromElsewhere,
        Later
    }

    Way public way;
    Thief public immutable THIEF = new Thief();

    function behave(Way way_) external {
        way = way_;
    }

    function deposit(ChannelConfig calldata c, uint128 amount, address collector, bytes calldata data) external {
        bytes32 id = idOf(c);
        if (way == Way.MoreMoney) amount += 1;
        if (way == Way.OtherChannel) id = ~id;
        if (way == Way.Never || way == Way.Later) return;
        if (way == Way.FromElsewhere) {
            THIEF.fetch(collector, c.payer, c.token, amount, id);
            return;
        }
        address payer = way == Way.OtherPayer ? address(this) : c.payer;
        address token = way == Way.OtherToken ? address(this) : c.token;
        IChannelPayer(collector).collect(payer, token, amount, id, data);
        if (way == Way.Twice) IChannelPayer(collector).collect(payer, token, amount, id, data);
    }

    /// @dev What `deposit` did not fetch then.
    function fetchNow(ChannelConfig calldata c, uint128 amount) external {
        IChannelPayer(c.payer).collect(c.payer, c.token, amount, idOf(c), "");
    }

    function idOf(ChannelConfig calldata c) public view returns (bytes32) {
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("x402 Batch Settlement"),
                keccak256("1"),
                block.chainid,
                address(this)
            )
        );
        bytes32 typehash = keccak256(
            "ChannelConfig(address payer,address payerAuthorizer,address receiver,address receiverAuthorizer,address token,uint40 withdrawDelay,bytes32 salt)"
        );
        return keccak256(abi.encodePacked(hex"1901", domain, keccak256(abi.encode(typehash, c))));
    }
}

/// @dev Fetches while the hub's deposit is in flight.
contract Thief {
    function fetch(address collector, address payer, address token, uint128 amount, bytes32 id) external {
        IChannelPayer(collector).collect(payer, token, amount, id, "");
    }
}
