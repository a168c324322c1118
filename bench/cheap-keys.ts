import { createPrivateKey, createPublicKey, generatePrimeSync, type KeyObject } from 'node:crypto'

export interface KeyPair {
  readonly privateKey: KeyObject
  readonly publicKey: KeyObject
}

const e = 65_537n

/**
 * Many different RSA keys in little time, each of two primes out of a few: whoever has two of them can compute others,
 * so they are for edges that nobody has to keep out.
 */
export function makeCheapKeys(count: number): readonly KeyPair[] {
  const primes: bigint[] = []
  const keys: KeyPair[] = []
  while (keys.length < count) {
    const prime = makePrime()
    keys.push(...primes.slice(0, count - keys.length).map((other) => keyOf(prime, other)))
    primes.push(prime)
  }
  return keys
}

/** Of 1024 bits, to be half of a key. */
function makePrime(): bigint {
  for (;;) {
    const prime = generatePrimeSync(1024, { bigint: true })
    // Two such make 2048 bits, and e has an inverse.
    if (prime >> 1022n === 3n && (prime - 1n) % e !== 0n) return prime
  }
}

function keyOf(p: bigint, q: bigint): KeyPair {
  const d = inverse(e, (p - 1n) * (q - 1n))
  const numbers = { n: p * q, e, d, p, q, dp: d % (p - 1n), dq: d % (q - 1n), qi: inverse(q, p) }
  const fields = Object.entries(numbers).map(([name, value]) => [name, base64(value)])
  const privateKey = createPrivateKey({
    key: { kty: 'RSA', ...(Object.fromEntries(fields) as object) },
    format: 'jwk',
  })
  return { privateKey, publicKey: createPublicKey(privateKey) }
}

/** [extended Euclid] */
function inverse(value: bigint, modulus: bigint): bigint {
  let [rest, next] = [modulus, value % modulus]
  let [factor, nextFactor] = [0n, 1n]
  while (next !== 0n) {
    const quotient = rest / next
    ;[rest, next] = [next, rest - quotient * next]
    ;[factor, nextFactor] = [nextFactor, factor - quotient * nextFactor]
  }
  return ((factor % modulus) + modulus) % modulus
}

function base64(value: bigint): string {
  const hex = value.toString(16)
  return Buffer.from(hex.padStart(hex.length + (hex.length % 2), '0'), 'hex').toString('base64url')
}
