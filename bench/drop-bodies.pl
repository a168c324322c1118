# Downloads over one keep-alive connection and lets the kernel drop the bodies (MSG_TRUNC), which only
# Linux's recv(2) can and no API of Node reaches: a client that copies them is slower than nginx sends.
# usage: drop-bodies.pl PORT RESPONSES <REQUEST; prints RESPONSES BODY_BYTES CPU_SECONDS
use strict;
use warnings;
use Socket;

my ($port, $total) = @ARGV;
my $request = do { local $/; <STDIN> };
my ($most, $bytes, $body) = (4 << 20, 0, '');
socket(my $server, PF_INET, SOCK_STREAM, 0) or die "socket: $!\n";
connect($server, pack_sockaddr_in($port, INADDR_LOOPBACK)) or die "connect: $!\n";

sub receive {
  my ($length, $flags) = @_;
  defined recv($server, $body, $length, $flags) or die "recv: $!\n";
  length $body or die "the connection was closed too early\n";
  return length $body;
}

for (1 .. $total) {
  syswrite($server, $request) == length $request or die "write: $!\n";
  my $end = -1;
  while ($end < 0) {
    receive(8192, MSG_PEEK);
    $end = index($body, "\r\n\r\n");
  }
  my $head = substr($body, 0, $end);
  receive($end + 4, MSG_WAITALL);
  $head =~ m{^HTTP/1\.1 200 } or die "answered ", $head =~ m{^(.*)}, "\n";
  $head =~ m{\r\ncontent-length: (\d+)}i or die "no length in $head\n";
  my $left = $1;
  $bytes += $left;
  while ($left > 0) { $left -= receive($left < $most ? $left : $most, MSG_TRUNC) }
}
my ($user, $system) = times;
printf "%d %d %.3f\n", $total, $bytes, $user + $system;
