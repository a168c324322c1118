import { createHash, type KeyObject } from 'node:crypto'
import { openStatement, StatementError, statementTypes } from '../trust/statement.ts'
import { streamOfText, type EventStream } from './events.ts'

/** Where the log ends, in its one order: epoch, then seq. */
export interface LogPlace {
  readonly epoch: number
  readonly seq: number
}

/** Whether a place is later than another: in the log, or in a later one. */
export function isAfter(one: LogPlace, other: LogPlace): boolean {
  return one.epoch > other.epoch || (one.epoch === other.epoch && one.seq > other.seq)
}

/** The log up to a place: its hash covers every header before it. */
export interface LogHead extends LogPlace {
  /** Of the last header; zeros before the first. 32 bytes. */
  readonly hash: Buffer
}

/** An event's header, as the chain holds it. */
export interface EventHeader extends LogPlace {
  readonly stream: EventStream
  readonly bodyHash: Buffer
  /** The hash of the header before; zeros before the first. */
  readonly previous: Buffer
}

/** What stands for an event's body in the chain: sha256 of its text. */
export function hashOfBody(body: string): Buffer {
  return createHash('sha256').update(body).digest()
}

/** Whether this may be the hash of a body, in hex. */
export function isBodyHash(text: string): boolean {
  return /^[0-9a-f]{64}$/.test(text)
}

/** sha256 over the header's canonical JSON. */
export function headerHash({ epoch, seq, stream, bodyHash, previous }: EventHeader): Buffer {
  const header = [epoch, seq, stream, bodyHash.toString('hex'), previous.toString('hex')]
  return createHash('sha256').update(JSON.stringify(header)).digest()
}

/** What is signed of a head. */
export function headStatement({ epoch, seq, hash }: LogHead): object {
  return { epoch, seq, hash: hash.toString('hex') }
}

/** A header as it travels: what the reader cannot know by itself. */
export interface SentHeader {
  readonly seq: number
  readonly stream: string
  /** Hex. */
  readonly bodyHash: string
}

/** Follows the log from a head that is believed: nothing is missing, swapped, repeated or made up in what it lets through. */
export interface ChainReader {
  /** The last head that a trusted key signed. */
  readonly head: LogHead
  /**
   * Takes the next header, of which nothing is believed before `close`.
   * @param body the body's text as it was sent, where this reader is entitled to it
   * @throws StatementError when it is not the next one, or the body is not the one that the header names
   */
  take(header: SentHeader, body: string | undefined): void
  /**
   * Ends a batch by the signature over its last header. What was taken may be believed from then on.
   * @throws StatementError when no trusted key signed just this end
   */
  close(envelope: unknown): void
}

/** @param keyOf the log's trusted key of this id, or undefined */
export function createChainReader(
  from: LogHead,
  keyOf: (kid: string) => KeyObject | undefined,
): ChainReader {
  let head = from
  let next = from
  return {
    get head() {
      return head
    },
    take({ seq, stream, bodyHash }, body) {
      const known = streamOfText(stream)
      if (known === undefined) throw new StatementError(`${stream} is no stream of the log`)
      if (seq !== next.seq + 1)
        throw new StatementError(`event ${seq} came where ${next.seq + 1} was to come`)
      if (!isBodyHash(bodyHash))
        throw new StatementError(`the header of event ${seq} names no hash`)
      if (body !== undefined && hashOfBody(body).toString('hex') !== bodyHash)
        throw new StatementError(`the body of event ${seq} is not the one that its header names`)
      const hash = headerHash({
        epoch: next.epoch,
        seq,
        stream: known,
        bodyHash: Buffer.from(bodyHash, 'hex'),
        previous: next.hash,
      })
      next = { epoch: next.epoch, seq, hash }
    },
    close(envelope) {
      const signed = openStatement(statementTypes.head, envelope, keyOf)
      if (JSON.stringify(signed) !== JSON.stringify(headStatement(next)))
        throw new StatementError(`what is signed is not the log up to event ${next.seq}`)
      head = next
    },
  }
}
