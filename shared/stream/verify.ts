import { createHash } from 'node:crypto'
import { Transform } from 'node:stream'
import { algorithmOf, digestFromHex, type Digest } from '../oci/digest.ts'

/** What a verified stream must turn out to be. */
export interface Expected {
  readonly digest: Digest
  /** Bytes, when known. */
  readonly size?: number | undefined
}

/** The bytes that passed are not the ones that were expected. */
export class VerifyError extends Error {
  readonly reason: 'digest' | 'size'

  constructor(reason: 'digest' | 'size', message: string) {
    super(message)
    this.name = 'VerifyError'
    this.reason = reason
  }
}

/**
 * Counts and hashes what passes. The last chunk is held back until the digest is known, so that on a
 * mismatch what comes out is short, never whole and wrong. The stream fails with a VerifyError.
 */
export function createVerifier({ digest, size }: Expected): Transform {
  const algorithm = algorithmOf(digest)
  const hash = createHash(algorithm)
  let seen = 0
  let held: Buffer | undefined
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      seen += chunk.length
      if (size !== undefined && seen > size) {
        return done(new VerifyError('size', `there are more than the expected ${size} bytes`))
      }
      if (chunk.length === 0) return done()
      hash.update(chunk)
      if (held !== undefined) this.push(held)
      held = chunk
      done()
    },
    flush(done) {
      if (size !== undefined && seen !== size) {
        return done(new VerifyError('size', `there are ${seen} bytes, not ${size}`))
      }
      const found = digestFromHex(algorithm, hash.digest('hex'))
      if (found !== digest) {
        return done(new VerifyError('digest', `the content is ${found}, not ${digest}`))
      }
      if (held !== undefined) this.push(held)
      done()
    },
  })
}
