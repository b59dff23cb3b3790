// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

/// @dev An operator that is a contract with one owner, as a Safe of one is.
contract ContractOperator is IERC1271 {
    address public immutable owner;

    constructor(address owner_) {
        owner = owner_;
    }

    function isValidSignature(bytes32 hash, bytes calldata signature) external view virtual returns (bytes4) {
        (address signer,,) = ECDSA.tryRecover(hash, signature);
        return signer == owner ? IERC1271.isValidSignature.selector : bytes4(0xffffffff);
    }

    function call(address target, bytes calldata data) external returns (bytes memory) {
        (bool done, bytes memory answer) = target.call(data);
        require(done, "call failed");
        return answer;
    }
}

/// @dev An operator that, when asked, tries to get something done inside the wallet before it says yes.
contract ReentrantOperator is IERC1271 {
    address private immutable target;
    bytes private payload;

    constructor(address target_) {
        target = target_;
    }

    function arm(bytes calldata payload_) external {
        payload = payload_;
    }

    function isValidSignature(bytes32, bytes calldata) external view returns (bytes4) {
        // A staticcall context: whatever the payload wants to write must fail.
        (bool done,) = target.staticcall(payload);
        require(!done, "the wallet let a write through");
        return IERC1271.isValidSignature.selector;
    }
}

/// @dev Answers that are nearly a yes, and answers that hurt.
contract OddOperator {
    enum Way {
        RightWordDirty,
        ShortAnswer,
        Bomb,
        BurnsAllGas,
        True
    }

    Way private immutable way;

    constructor(Way way_) {
        way = way_;
    }

    fallback() external {
        if (way == Way.BurnsAllGas) {
            assembly ("memory-safe") {
                invalid()
            }
        }
        bytes4 magic = IERC1271.isValidSignature.selector;
        uint256 size = way == Way.ShortAnswer ? 4 : way == Way.Bomb ? 500_000 : 32;
        uint256 word = way == Way.True ? 1 : uint256(bytes32(magic)) | (way == Way.RightWordDirty ? 1 : 0);
        if (way == Way.Bomb) word = 0;
        assembly ("memory-safe") {
            mstore(0, word)
            return(0, size)
        }
    }
}
