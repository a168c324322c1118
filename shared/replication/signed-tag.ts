import type { KeyObject } from 'node:crypto'
import { isDigest, type Digest } from '../oci/digest.ts'
import {
  openStatement,
  signStatement,
  StatementError,
  statementTypes,
  type StatementKey,
} from '../trust/statement.ts'
import { isBodyHash } from './chain.ts'

/** The header in which a primary tells an edge, with the answer to a tag, when that was so. */
export const tagHeader = 'outport-tag-statement'

/** Where a tag pointed when the log stood at a place. */
export interface SignedTag {
  readonly projectId: number
  readonly repositoryId: number
  /** Its whole name. */
  readonly repository: string
  readonly tag: string
  readonly digest: Digest
  readonly epoch: number
  readonly seq: number
  /** The event that made it so, where that had no number yet. */
  readonly waiting?: WaitingMove
}

/** A tag's move that is committed and not numbered. */
export interface WaitingMove {
  /** Orders it among those that wait: one tag's moves have ascending ids. */
  readonly id: number
  /** sha256, hex: by this it is found when the log tells of it. */
  readonly bodyHash: string
}

/** As a header's value. */
export function formatSignedTag(tag: SignedTag, key: StatementKey): string {
  const envelope = signStatement(statementTypes.tag, tag, key)
  return Buffer.from(JSON.stringify(envelope)).toString('base64')
}

/**
 * Reads the header's value.
 * @throws StatementError when no trusted key signed it, or it is something else
 */
export function parseSignedTag(
  header: string,
  keyOf: (kid: string) => KeyObject | undefined,
): SignedTag {
  const said = openStatement(statementTypes.tag, envelopeIn(header), keyOf) as SignedTag
  const { digest, seq, waiting } = said
  const isWhole =
    isDigest(digest) &&
    Number.isSafeInteger(seq) &&
    (waiting === undefined || (Number.isSafeInteger(waiting.id) && isBodyHash(waiting.bodyHash)))
  if (!isWhole) throw new StatementError('the statement is of no tag')
  return said
}

function envelopeIn(header: string): unknown {
  try {
    return JSON.parse(Buffer.from(header, 'base64').toString('utf8')) as unknown
  } catch {
    return undefined
  }
}
