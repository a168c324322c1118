import { hash } from 'node:crypto'
import type { Digest } from '../oci/digest.ts'

/** A member of a site that may be the home of something. */
export interface HomeMember {
  readonly id: string
  /** What it gets of all there is, against the others: 1 without, 0 is nothing unless all have that. */
  readonly weight?: number | undefined
}

/** What has a home: a blob, or a piece of one that has a list of them. */
export interface HomeKey {
  readonly digest: Digest
  readonly piece?: number | undefined
}

/** Who of a site's members is the home of what: all that know the same members agree, without asking each other. */
export interface Homes<M extends HomeMember> {
  /** All members: the home first, and behind it whoever would be if those before it were gone. */
  rank(key: HomeKey): M[]
  home(key: HomeKey): M | undefined
}

/**
 * Rendezvous hashing, weighted: what was a member's own goes to all others evenly when it goes, and nothing else moves.
 * The scores are part of what edges of different versions agree on: a change of them moves every home.
 * [Thaler and Ravishankar 1998; Schindelhauer and Schomaker 2005]
 */
export function createHomes<M extends HomeMember>(members: readonly M[]): Homes<M> {
  const seeded = members.map((member) => ({
    member,
    weight: Math.max(member.weight ?? 1, 0),
    seed: wordsOf(member.id),
  }))
  const score = ({ digest, piece }: HomeKey): Scored<M>[] => {
    const key = wordsOf(piece === undefined ? digest : `${digest}#${piece}`)
    return seeded.map(({ member, weight, seed }) => {
      const chance = chanceOf(seed, key)
      return { member, chance, score: weight / -Math.log(chance) }
    })
  }
  return {
    rank: (key) =>
      score(key)
        .sort(compare)
        .map(({ member }) => member),
    home: (key) => bestOf(score(key))?.member,
  }
}

interface Scored<M> {
  readonly member: M
  readonly chance: number
  readonly score: number
}

/** The last two only matter where weights are 0, and among ids that are there twice. */
function compare(one: Scored<HomeMember>, other: Scored<HomeMember>): number {
  if (one.score !== other.score) return other.score - one.score
  if (one.chance !== other.chance) return other.chance - one.chance
  if (one.member.id === other.member.id) return 0
  return one.member.id < other.member.id ? -1 : 1
}

function bestOf<M extends HomeMember>(scored: readonly Scored<M>[]): Scored<M> | undefined {
  let best: Scored<M> | undefined
  for (const one of scored) if (best === undefined || compare(one, best) < 0) best = one
  return best
}

type Words = readonly [number, number, number, number]

/** 128 bits of a text's SHA-256: once for a member and once for a key, so that a pair costs no hash. */
function wordsOf(text: string): Words {
  const bytes = hash('sha256', text, 'buffer')
  return [bytes.readInt32BE(0), bytes.readInt32BE(4), bytes.readInt32BE(8), bytes.readInt32BE(12)]
}

/** What a member drew for a key: of 53 bits, above 0 and below 1. */
function chanceOf(seed: Words, key: Words): number {
  const high = mix(mix(seed[0] ^ key[0]) ^ seed[1] ^ key[1])
  const low = mix(mix(high ^ seed[2] ^ key[2]) ^ seed[3] ^ key[3])
  return ((high >>> 6) * 2 ** 26 + (low >>> 6) + 0.5) / 2 ** 52
}

/** 32 bits from 32 bits, one to one. [MurmurHash3, fmix32] */
function mix(word: number): number {
  let mixed = word ^ (word >>> 16)
  mixed = Math.imul(mixed, 0x85ebca6b)
  mixed ^= mixed >>> 13
  mixed = Math.imul(mixed, 0xc2b2ae35)
  return mixed ^ (mixed >>> 16)
}
