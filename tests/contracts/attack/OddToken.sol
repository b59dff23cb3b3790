// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

/// @dev A token that misbehaves in one chosen way. Balances are real, so that money moved can be told from money
/// only announced.
contract OddToken {
    enum Way {
        Good,
        ReturnsFalse,
        ReturnsNothing,
        ReturnsTwo,
        ReturnsLong,
        Reverts,
        BurnsAllGas,
        Heavy,
        TakesFee,
        CallsBack,
        CallsBackAndFails,
        Shrinks
    }

    mapping(address => uint256) public balanceOf;
    mapping(address => Way) public wayOf; // by payee
    Way public way;
    address public target;
    bytes public payload;
    bool public called;
    bool public calledBackFine;
    bytes public answer;

    function mint(address to, uint256 amount) external {
        balanceOf[to] += amount;
    }

    function behave(Way way_) external {
        way = way_;
    }

    function behaveFor(address payee, Way way_) external {
        wayOf[payee] = way_;
    }

    /// @dev As `callBack`, and that transfer then moves nothing and answers false, so that the call stays done.
    function callBackAndFail(address target_, bytes calldata payload_) external {
        (way, target, payload, called) = (Way.CallsBackAndFails, target_, payload_, false);
    }

    /// @dev Once, during the next transfer, call `target_`.
    function callBack(address target_, bytes calldata payload_) external {
        (way, target, payload, called) = (Way.CallsBack, target_, payload_, false);
    }

    function transfer(address to, uint256 amount) external {
        _move(msg.sender, to, amount);
    }

    /// @dev With an allowance from everybody to everybody.
    function transferFrom(address from, address to, uint256 amount) external {
        _move(from, to, amount);
    }

    /// @dev EIP-3009, for whatever signature.
    function receiveWithAuthorization(
        address from,
        address to,
        uint256 amount,
        uint256,
        uint256,
        bytes32,
        bytes calldata
    ) external {
        _move(from, to, amount);
    }

    function _move(address from, address to, uint256 amount) private {
        Way how = wayOf[to] == Way.Good ? way : wayOf[to];
        if (how == Way.Reverts) revert("no");
        if (how == Way.ReturnsFalse) _return(abi.encode(false));
        if (how == Way.BurnsAllGas) {
            assembly ("memory-safe") {
                invalid()
            }
        }
        if (how == Way.Heavy) _burn(2_000_000);
        if ((how == Way.CallsBack || how == Way.CallsBackAndFails) && !called) {
            called = true;
            (calledBackFine, answer) = target.call(payload);
            if (how == Way.CallsBackAndFails) _return(abi.encode(false));
        }
        balanceOf[from] -= amount;
        if (how == Way.Shrinks) (amount, balanceOf[to]) = (0, balanceOf[to] / 2);
        balanceOf[to] += how == Way.TakesFee ? amount - amount / 100 : amount;
        if (how == Way.ReturnsNothing) _return("");
        if (how == Way.ReturnsTwo) _return(abi.encode(2));
        if (how == Way.ReturnsLong) _return(abi.encode(true, true));
        _return(abi.encode(true));
    }

    function _burn(uint256 amount) private view {
        uint256 end = gasleft() > amount ? gasleft() - amount : 0;
        while (gasleft() > end) {}
    }

    function _return(bytes memory data) private pure {
        assembly ("memory-safe") {
            return(add(data, 0x20), mload(data))
        }
    }
}
