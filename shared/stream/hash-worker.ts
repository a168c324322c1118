import { createHash, type Hash } from 'node:crypto'
import { parentPort, type MessagePort } from 'node:worker_threads'
import type { DigestAlgorithm } from '../oci/digest.ts'

/** What `hasher.ts` posts. `update` and `finish` are answered, in the order of posting. */
export type HashRequest =
  | { readonly kind: 'start'; readonly state: number; readonly algorithm: DigestAlgorithm }
  | { readonly kind: 'update'; readonly state: number; readonly bytes: Uint8Array }
  | { readonly kind: 'finish'; readonly state: number }
  | { readonly kind: 'drop'; readonly state: number }

/** Hex digits for `finish`, undefined for `update`. */
export type HashAnswer = string | undefined

if (parentPort !== null) serve(parentPort)

/** Runs many hashes on this thread; the order within each is the order of posting. */
function serve(port: MessagePort): void {
  const states = new Map<number, Hash>()
  port.on('message', (request: HashRequest) => {
    const { kind, state } = request
    const hash = states.get(state)
    if (kind === 'start') states.set(state, createHash(request.algorithm))
    else if (hash === undefined) throw new Error(`there is no hash ${state}`)
    else if (kind === 'update') {
      hash.update(request.bytes)
      port.postMessage(undefined satisfies HashAnswer)
    } else {
      states.delete(state)
      if (kind === 'finish') port.postMessage(hash.digest('hex') satisfies HashAnswer)
    }
  })
}
